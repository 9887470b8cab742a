"""Small training problems: handwritten digits, a novel, an XOR network, and a line fitted to points."""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx import optimizers
from gradtx.core import Transformation
from gradtx.core.arguments import checked


class Batch(NamedTuple):
    """Batch of examples: inputs and targets."""

    inputs: Any
    """Shape (examples, features)."""
    targets: Any
    """Shape (examples,): class numbers, or the numbers to predict."""


class Entry(NamedTuple):
    """Participant of a race: an optimizer with its default learning rate and batch size."""

    make: Callable[[float], Transformation]
    """A function from a learning rate to the optimizer."""
    learning_rate: float | Sequence[float]
    """The default learning rate, or several: the race trains with each of them and reports the best run."""
    family: str = ""
    """The group of the entry in the picture, such as its change relative to SGD."""
    batch_size: Literal["all"] | None = None
    """`"all"` if the optimizer needs the gradient of all examples; None for the batch size of the problem."""


class Problem(NamedTuple):
    """Training problem: a model, its loss, its data, and the default batch size and number of epochs of a race."""

    init: Callable[[Array], Any]
    """A function from a `jax.random.key` to random parameters."""
    loss: Callable[[Any, Batch], Array]
    """A function from parameters and a batch to the mean loss, a scalar."""
    accuracy: Callable[[Any, Batch], Array] | None
    """A function from parameters and a batch to the fraction classified right, from 0 to 1; None without classes."""
    train: Batch
    """The training examples."""
    test: Batch
    """The test examples."""
    batch_size: int
    """The number of examples in a step."""
    epochs: int
    """The number of passes over the training examples."""
    entries: Mapping[str, Entry] | None = None
    """The default participants of a race, by name; None for the textbook optimizers."""


@checked
def digits() -> Problem:
    """Handwritten digits of scikit-learn: 8×8 images of 10 classes, 1,437 for training and 360 for testing.

    The network is 64 → 64 (ReLU) → 10 (softmax), with cross-entropy. The split is the same for every seed of a race.

    Returns:
      The `Problem`, with a batch size of 32 and 40 epochs.

    >>> from gradtx.lab import digits
    >>> problem = digits()
    >>> problem.train.inputs.shape, problem.test.inputs.shape
    ((1437, 64), (360, 64))
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    examples = Batch((images / 16).astype(np.float32), classes.astype(np.int32))  # grey levels range from 0 to 16
    order = np.random.default_rng(0).permutation(len(classes))
    test, train = (Batch(*(x[part] for x in examples)) for part in np.split(order, [360]))

    def loss(params, batch):
        log_probabilities = jax.nn.log_softmax(network(params, batch.inputs))
        return -jnp.mean(jnp.take_along_axis(log_probabilities, batch.targets[:, None], axis=1))

    def accuracy(params, batch):
        return jnp.mean(network(params, batch.inputs).argmax(axis=1) == batch.targets)

    return Problem(lambda key: init_network(key, (64, 64, 10)), loss, accuracy, train, test, batch_size=32, epochs=40)


@checked
def xor() -> Problem:
    """XOR network, 2 → 4 (ReLU) → 1 (sigmoid), with binary cross-entropy, trained and tested on XOR.

    Four hidden units are few: from three or four starts in ten an optimizer ends with an accuracy of 75% or less,
    because units die. Seed 0 of a race is a start from which all textbook optimizers learn.

    Returns:
      The `Problem`, with its four examples as one batch and 1,000 epochs.

    >>> from gradtx.lab import xor
    >>> xor().train.targets
    array([0., 1., 1., 0.], dtype=float32)
    """
    examples = Batch(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([0, 1, 1, 0], np.float32))

    def loss(params, batch):
        logit = network(params, batch.inputs)[:, 0]
        return jnp.mean(jnp.logaddexp(0, logit) - batch.targets * logit)

    def accuracy(params, batch):
        return jnp.mean((network(params, batch.inputs)[:, 0] > 0) == (batch.targets > 0))

    def init(key):
        return init_network(jax.random.fold_in(key, 2), (2, 4, 1))

    return Problem(init, loss, accuracy, examples, examples, batch_size=4, epochs=1000)


@checked
def line() -> Problem:
    """Line fit by least squares: the mean of ((a·x + b) − y)² over 100 points near y = 2·x + 1, from a = b = 0.

    Returns:
      The `Problem`, with the 100 points as one batch and 2,000 epochs; the points are also its test examples.

    >>> import jax
    >>> from gradtx.lab import line
    >>> problem = line()
    >>> sorted(problem.init(jax.random.key(0))), problem.train.inputs.shape
    (['a', 'b'], (100, 1))
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (100, 1))
    points = Batch(x.astype(np.float32), (2 * x[:, 0] + 1 + rng.normal(0, 0.1, 100)).astype(np.float32))

    def loss(params, batch):
        return jnp.mean((params["a"] * batch.inputs[:, 0] + params["b"] - batch.targets) ** 2)

    def init(key):
        return {"a": jnp.zeros(()), "b": jnp.zeros(())}

    return Problem(init, loss, None, points, points, batch_size=100, epochs=2000)


OUTER = ("embedding", "position", "head")  # parameters of the transformer that are not hidden matrices
TEXT_ENTRIES = {
    "muon": Entry(lambda rate: optimizers.muon(rate, default=optimizers.adam(0.004), exclude=OUTER), 0.01),
    "adam": Entry(optimizers.adam, 0.004),
    "lion": Entry(optimizers.lion, 0.001),
    "nesterov": Entry(optimizers.nesterov, 0.1),
}


@checked
def text() -> Problem:
    """Character-level language model: a transformer with 0.8 million parameters reads chapters of a novel.

    The data are the first 18 chapters of Pride and Prejudice (Jane Austen, 1813; in the public domain), 180,822
    characters: sequences of 64 characters, the first 90% for training. The loss is the cross-entropy of the next
    character in nats, and the accuracy the fraction of next characters predicted right.

    The model is a decoder without biases: 4 layers of width 128 with 4 heads of attention and an MLP of 512 units with
    squared ReLU. All its parameters are matrices. The participants have the best learning rates of grids with a factor
    of 2 or 2.5.

    Returns:
      The `Problem`, with a batch size of 16 and 2 epochs, and four optimizers as `entries`.

    >>> import jax
    >>> from gradtx.lab import text
    >>> problem = text()
    >>> problem.train.inputs.shape, sum(w.size for w in jax.tree.leaves(problem.init(jax.random.key(0))))
    ((2542, 64), 813568)
    """
    novel = files("gradtx.lab").joinpath("pride_and_prejudice.txt").read_text(encoding="utf-8")
    characters, codes = np.unique(list(novel), return_inverse=True)
    count = (len(codes) - 1) // CONTEXT
    inputs, targets = (codes[i : i + count * CONTEXT].reshape(count, CONTEXT).astype(np.int32) for i in (0, 1))
    end = count * 9 // 10

    def loss(params, batch):
        log_probabilities = jax.nn.log_softmax(transformer(params, batch.inputs))
        return -jnp.mean(jnp.take_along_axis(log_probabilities, batch.targets[..., None], axis=-1))

    def accuracy(params, batch):
        return jnp.mean(transformer(params, batch.inputs).argmax(axis=-1) == batch.targets)

    return Problem(
        lambda key: init_transformer(key, len(characters)),
        loss,
        accuracy,
        Batch(inputs[:end], targets[:end]),
        Batch(inputs[end:], targets[end:]),
        batch_size=16,
        epochs=2,
        entries=TEXT_ENTRIES,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {"digits": digits, "text": text, "xor": xor, "line": line}


def init_network(key: Array, sizes: tuple[int, ...]) -> list[dict[str, Array]]:
    """Initialise fully connected layers between the given sizes: weights N(0, 2/inputs), biases 0.

    Source: He et al. 2015, arXiv 1502.01852.
    """
    return [
        {"weight": jnp.sqrt(2 / a) * jax.random.normal(k, (a, b)), "bias": jnp.zeros(b)}
        for k, (a, b) in zip(jax.random.split(key, len(sizes) - 1), pairwise(sizes))
    ]


def network(params: list[dict[str, Array]], x: Any) -> Array:
    """Compute x·W + b, layer after layer, with ReLU between: (examples, features) to (examples, outputs)."""
    for i, layer in enumerate(params):
        x = (jax.nn.relu(x) if i else x) @ layer["weight"] + layer["bias"][None]
    return x


CONTEXT, WIDTH, LAYERS, HEADS = 64, 128, 4, 4  # of the transformer


def init_transformer(key: Array, characters: int) -> dict[str, Any]:
    """Initialise the transformer of `text`: weights N(0, 1/inputs), except those that add to the residual stream.

    These are N(0, 1/(inputs·2·layers)), so that the stream keeps its variance (GPT-2).
    """
    keys = iter(jax.random.split(key, 3 + 6 * LAYERS))

    def matrix(inputs, outputs, scale=1.0):
        return scale * inputs**-0.5 * jax.random.normal(next(keys), (inputs, outputs))

    small = (2 * LAYERS) ** -0.5
    layers = [
        {
            **{name: matrix(WIDTH, WIDTH) for name in ("query", "key", "value")},
            "out": matrix(WIDTH, WIDTH, small),
            "up": matrix(WIDTH, 4 * WIDTH),
            "down": matrix(4 * WIDTH, WIDTH, small),
        }
        for _ in range(LAYERS)
    ]
    embedding, position = matrix(characters, WIDTH, characters**0.5), matrix(CONTEXT, WIDTH, CONTEXT**0.5)
    return {"embedding": embedding, "position": position, "layers": layers, "head": matrix(WIDTH, characters)}


def transformer(params: dict[str, Any], x: Any) -> Array:
    """Compute the logits of each next character: (examples, characters) to (examples, characters, vocabulary)."""
    length = x.shape[1]
    h = params["embedding"][x] + params["position"][None, :length]
    for layer in params["layers"]:
        z = normalised(h)
        heads = (z.shape[0], length, HEADS, WIDTH // HEADS)
        query, key, value = ((z @ layer[name]).reshape(heads) for name in ("query", "key", "value"))
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + attended.reshape(z.shape) @ layer["out"]
        h = h + jax.nn.relu(normalised(h) @ layer["up"]) ** 2 @ layer["down"]
    return normalised(h) @ params["head"]


def normalised(x: Array) -> Array:
    """Divide each vector by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
