"""Pictures, with matplotlib (`pip install "gradtx[race]"`)."""

from gradtx.plots.curves import Curve, plot_losses
from gradtx.plots.schedules import plot_schedule

__all__ = ["Curve", "plot_losses", "plot_schedule"]
