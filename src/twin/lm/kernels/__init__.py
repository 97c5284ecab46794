"""The two recurrences and what is fused around them, by several means behind one seam.

`registry` names the means and chooses; `reference` is the truth that tests compare with.
"""
