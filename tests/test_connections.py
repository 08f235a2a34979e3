"""Who gets a place, and whose connection is closed for it."""

from __future__ import annotations

import pytest

from collector.connections import CLOSING, LOOPBACK, Place, Places, State, person_of, source_of


class Crowd:
    """Connections by name, and those that were closed for others."""

    def __init__(self, total: int, per_source: int) -> None:
        self.places = Places(total, per_source)
        self.gone: list[str] = []

    def come(self, source: str, name: str, state: State = State.SILENT) -> Place:
        place = self.places.take(source, lambda: self.gone.append(name))
        assert isinstance(place, Place), place
        place.become(state)
        return place

    def refused(self, source: str) -> str:
        answer = self.places.take(source, lambda: None)
        assert isinstance(answer, str)
        return answer


def test_the_longest_silent_of_the_greediest_source_goes_first() -> None:
    crowd = Crowd(4, 3)
    for source, name in (("a", "a1"), ("b", "b1"), ("b", "b2"), ("a", "a2")):
        crowd.come(source, name)
    crowd.places.displace()
    assert crowd.gone == ["a1"]
    crowd.come("b", "b3")
    crowd.come("c", "c1")  # b has most
    assert crowd.gone == ["a1", "b1"]
    assert crowd.places.taken == 4
    assert crowd.places.displaced == 2


def test_a_source_has_its_share_and_displaces_its_own() -> None:
    crowd = Crowd(10, 2)
    first = crowd.come("a", "a1")
    crowd.come("a", "a2")
    first.become(State.BUSY)
    crowd.come("a", "a3")
    assert crowd.gone == ["a2"]
    crowd.come("a", "a4", State.BUSY)
    assert crowd.gone == ["a2", "a3"]
    assert crowd.refused("a") == "source"
    first.leave()
    crowd.come("a", "a5")
    assert crowd.places.taken == 2


def test_who_is_worked_for_keeps_its_place() -> None:
    crowd = Crowd(2, 2)
    one, two = crowd.come("a", "a1", State.BUSY), crowd.come("a", "a2", State.BUSY)
    assert crowd.refused("b") == "connections"
    assert not crowd.places.displace()
    two.become(State.IDLE)
    crowd.come("b", "b1")
    assert crowd.gone == ["a2"]
    one.leave()
    one.leave()
    two.leave()
    assert crowd.places.taken == 1


def test_who_had_an_answer_gives_way_to_none_that_has_as_much_but_the_silent_do() -> None:
    crowd = Crowd(2, 2)
    crowd.come("a", "a1", State.IDLE)
    crowd.come("b", "b1", State.BUSY)
    assert crowd.refused("b") == "connections"
    crowd.come("c", "c1")
    assert crowd.gone == ["a1"]
    crowd.come("b", "b2")
    assert crowd.gone == ["a1", "c1"]


def test_this_machine_keeps_what_had_an_answer_from_all_but_itself() -> None:
    crowd = Crowd(3, 2)
    crowd.come(LOOPBACK, "l1", State.IDLE)
    crowd.come(LOOPBACK, "l2", State.IDLE)
    crowd.come("a", "a1", State.BUSY)
    assert crowd.refused("b") == "connections"
    crowd.come(LOOPBACK, "l3")
    assert crowd.gone == ["l1"]
    crowd.come("b", "b1")  # l3 has had no answer yet
    assert crowd.gone == ["l1", "l3"]


def test_waiting_anew_is_waiting_shorter() -> None:
    crowd = Crowd(2, 2)
    one = crowd.come("a", "a1", State.IDLE)
    crowd.come("a", "a2", State.IDLE)
    one.become(State.BUSY)
    one.become(State.IDLE)
    crowd.come("b", "b1")
    assert crowd.gone == ["a2"]


def test_what_gave_way_counts_until_it_is_closed() -> None:
    """Nobody may accept faster than the event loop closes: each still has its descriptor."""
    crowd = Crowd(1, 1)
    before = [crowd.come("a", str(number)) for number in range(CLOSING + 1)]
    assert crowd.places.room() == 0
    for place in before[:3]:
        place.leave()
        place.leave()
    assert crowd.places.room() == 3
    assert crowd.places.taken == 1


@pytest.mark.parametrize(
    ("address", "source", "person"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/64"),
        ("127.0.0.5", "127.0.0.5", LOOPBACK),
        ("::ffff:127.0.0.5", "127.0.0.5", LOOPBACK),
        ("::1", "::1", LOOPBACK),
        ("", "", ""),
    ],
)
def test_whose_connection_it_is(address: str, source: str, person: str) -> None:
    assert source_of(address) == source
    assert person_of(address) == person
