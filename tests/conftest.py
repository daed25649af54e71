"""What every test shares."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "stor_ops", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("stor_ops")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
