"""Organs as values and the verbs on them.

Rooms, lowest first: values (``errors``, ``canonical``, ``atomic``, ``manifest``), ``trust`` (keys,
federation, signing, sealing), ``protocol`` (the messages of an exchange), ``surgery`` (checkpoints,
plans, organs) and beside it ``privacy`` (what training costs those whom the records are about),
``learning`` (records, training, evaluation) and ``commands`` (the ``organ`` command line).
Nothing here knows a site, a coordinator or a simulation.
"""
