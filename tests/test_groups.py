"""Tests of one ComfyUI, and of one file, stay on one worker: their servers and fixtures are made once."""

import pytest


def test_the_worker_knows_this_tests_group(request):
    """pytest 9.2 hides the name that xdist 3.8 writes the group into; then every worker starts every server."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not --dist loadgroup")
    assert "@" in request.node.nodeid
