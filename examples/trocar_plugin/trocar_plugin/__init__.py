"""An example of a package of one's own: a method, a task, a data set, a metric and a family of backbones for Trocar.

Nothing is imported here: Trocar imports a module when a configuration uses what it defines.
"""
