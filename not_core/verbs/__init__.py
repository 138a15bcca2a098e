"""What the ``organ`` commands do, as functions: paths and values in, values out.

``import not_core as nc`` has all of them. Commands parse words and print; what is done is here.
"""
