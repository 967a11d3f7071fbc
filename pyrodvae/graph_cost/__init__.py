"""What a missing arrow costs a guide, in nats: exactly for linear-Gaussian models, measured for trained ones.

>>> from pyrodvae.graph import graph_of
>>> from pyrodvae.weights import make_pair
>>> model, _ = make_pair("dkf", {"observed": 3, "latent": 2})
>>> joint = linear_twin(graph_of(model, 4))  # or state_space(parameters, frames)
>>> costs = arrow_cost(joint, joint.sample(100))
>>> str(costs).splitlines()[2].split()[0]  # the table has a line for each sight, the worst first
'factorised'

Of trained runs::

    print(trained_cost({"paper": run, "meanfield": other}, x))
    print(trained_cost(guides_beside(run, crops), x))  # new guides, all beside the model of one run
"""

from pyrodvae.graph_cost.arrows import ArrowCost, arrow_cost
from pyrodvae.graph_cost.frozen import guides_beside
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
    "guides_beside",
    "linear_twin",
    "state_space",
    "trained_cost",
]
