"""A plan: a model and example inputs in; what may move, and how to move it, out.

Open `plan.py` first: the passes that make a plan, and its methods by name. `analysis.py` is what a plan is: its fields,
and what follows from them. Each other file is one thing that is done with a plan, or a part of it:

    free_values, cob      changes of basis: drawn, given, checked
    factors, moved_share  the factor of each tensor; the share of the parameters that can move
    emission, in_place    emitting a network; scaling the model itself
    teleported_point      the model's weights and gradients as functions of a change of basis
    planned_model         what a plan assumes of its model; with module_parts, planned_settings, model_snapshot, weights
    number_formats, unguarded   refusals: weights out of range, conditions that no guard checks
    teleportation         the plan and the change of basis of an emitted network
"""
