"""The values that abstract interpretation computes with.

A `CobMap` says for every position of a tensor which symbols its change of basis is a product of; a `System` holds the
equations between symbols; a `Solution` has every symbol as a product of free ones; a `Size` is a polynomial in the
sizes of the inputs. Imports nothing of the other passes but `errors`. Open `cob_map.py` first.
"""
