"""Wrong calls: pyright and mypy must find an error in each line that ends in `# wrong`, and in no other."""

import gradtx as gx

gx.adam("fast")  # wrong
gx.adam(eps=[1, 2])  # wrong
gx.adam(learning_rate="3e-4")  # wrong
gx.adam(betas=(0.9, 0.999))  # wrong
gx.adam(eps_in_sqrt="yes")  # wrong
gx.sgd(0.1, 0.9, True, 4)  # wrong
gx.lion(weight_decay={"a": 1})  # wrong
gx.chain(0.1, gx.sgd(0.1))  # wrong
gx.accumulate("adam", 4)  # wrong
gx.accumulate(gx.adam())  # wrong
gx.precondition(gx.identity(), by=0.1)  # wrong
gx.ranger(every_k=(1, 2))  # wrong
gx.formula(3)  # wrong
gx.adam().updat({})  # wrong
gx.AdamW(1e-3)  # wrong
rate: float = gx.adam()  # wrong
