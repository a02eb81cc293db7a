"""What is in a checkpoint's folder, or on the hub, looked at before a weight is read: is it there, whole and servable?

It must not know the modules that are made of it, nor on which devices.
"""
