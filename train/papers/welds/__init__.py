"""The gate's paper on real welds (Lindgren, Zach 2022, section 4): Tables 2 and 3, and variants of it.

`benchmark` is the protocol, `recipes` says which networks and how they are read, `task` is one network from its
training (`training`) to its scores (`scores`), `evaluation` makes rates of them; `data` makes a fold's patches out of
`images`.
"""
