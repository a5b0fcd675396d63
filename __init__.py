"""OP4KSR for ComfyUI: one-step, patch-free 4K upscaling. ComfyUI loads this folder as an extension."""

WEB_DIRECTORY = "./web"  # help pages


async def comfy_entrypoint():
    # Imported here: nothing runs at load, and a relative import at the top would break pytest in this folder.
    import logging

    try:
        from .nodes import Op4ksrExtension
    except Exception:
        logging.getLogger("op4ksr").exception("OP4KSR: the nodes cannot be loaded")
        raise
    return Op4ksrExtension()
