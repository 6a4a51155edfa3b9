"""A plan: a model and example inputs in; what may move, and how to move it, out.

Open `plan.py` first: the passes that make a plan, and its methods by name. `analysis.py` is what a plan is: its fields,
and what follows from them. Each other file is one thing that is done with a plan, or a part of it:

    free_values, cob      changes of basis: drawn, given, checked
    factors, moved_share  what one multiplies each tensor by; how much of a model can move
    emission, in_place    the teleported network; the model itself, scaled
    teleported_point      the model's weights and gradients as functions of a change of basis
    planned_model         what the model was like; with module_parts, planned_settings, model_snapshot, weights
    number_formats, unguarded   what is refused: weights out of range, conditions that no guard checks
    teleportation         what an emitted network remembers
"""
