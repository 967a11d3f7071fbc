"""What a missing arrow costs a guide, in nats: exactly for linear-Gaussian models, measured for trained ones.

::

    joint = linear_twin(graph_of(model, 12))          # or state_space(parameters, frames)
    print(arrow_cost(joint, joint.sample(100)))       # a line for each sight of the family
    print(trained_cost({"paper": run, "meanfield": other}, x))
"""

from pyrodvae.graph_cost.arrows import ArrowCost, arrow_cost
from pyrodvae.graph_cost.joint import Joint, linear_twin, state_space
from pyrodvae.graph_cost.optimum import LinearGuide, best_guide
from pyrodvae.graph_cost.trained import TrainedCost, trained_cost

__all__ = [
    "ArrowCost",
    "Joint",
    "LinearGuide",
    "TrainedCost",
    "arrow_cost",
    "best_guide",
    "linear_twin",
    "state_space",
    "trained_cost",
]
