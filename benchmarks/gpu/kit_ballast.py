"""A node of the kit, copied into custom_nodes: it takes up the card's memory, so that what follows has less."""

import logging

import comfy.model_management
import torch

SMALL = 64 * 2**20
"""Bytes of ballast without a card, where nothing can run short: the graph is rehearsed, the shortage is not."""

held: list[torch.Tensor] = []


class Ballast:
    """Lets `leave_gb` (GB) of the card free from then on; 0 gives back what was taken."""

    CATEGORY = "kit"
    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "leave_gb": ("FLOAT", {"default": 3.0, "min": 0.0})}}

    def load(self, image, leave_gb):
        held.clear()
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        if leave_gb:
            device = comfy.model_management.get_torch_device()
            free = comfy.model_management.get_free_memory(device)
            size = max(int(free - leave_gb * 1e9), 0) if device.type == "cuda" else SMALL
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
            logging.warning("Ballast: %.1f GB taken of %.1f GB free on %s", size / 1e9, free / 1e9, device)
        return (image,)


NODE_CLASS_MAPPINGS = {"KitBallast": Ballast}
