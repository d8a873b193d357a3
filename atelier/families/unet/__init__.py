"""What families of diffusers' UNet share: its two halves, attention and conditions of packed rows, programs, LoRAs.

A family's own folder has its text encoders and the check that a model is of it. Where UNets of the families differ,
the model's config says so: only `time_embedding` and `embeds` read it.
"""
