"""`desk`, the API over a real store that tests of the API use, for the commands that ask it."""

from tests.web.conftest import desk  # noqa: F401 - a fixture
