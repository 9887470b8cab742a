"""Pictures, with matplotlib (`pip install "gradtx[race]"`)."""

from gradtx.plots.curves import Curve, plot_losses

__all__ = ["Curve", "plot_losses"]
