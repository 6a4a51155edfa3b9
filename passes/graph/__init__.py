"""What every pass knows of a graph and of the modules that it calls.

In: modules, tensors and fx nodes as torch gives them. Out: facts about them, with no opinion on changes of basis:
which modules are leaves, how a module is cloned, which tensors share memory, what a guard checks. Imports nothing of
the other passes but `errors`. Open `containers.py` first.
"""
