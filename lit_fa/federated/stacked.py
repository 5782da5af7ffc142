"""placeholder until the explicit executor lands"""

from lit_fa.federated.lanes import LaneExecutor


class StackedExecutor(LaneExecutor):
    name = "stacked"

    def refusal(self, learner, local):
        return "not there yet"
