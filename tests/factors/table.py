"""The table: `python -m tests.factors.table`, or `make factors`."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.factors import deadlines, gangs, interference, locality, needs
from tests.factors.figure import Figure

# What makes each figure, and the test in test_factors that asserts on it.
FACTORS: dict[Callable[[], Figure], str] = {
    needs.resources: "test_no_node_has_more_than_it_can_give",
    gangs.figure: "test_no_place_is_held_by_a_job_that_cannot_begin",
    needs.constraints: "test_no_pod_is_where_it_must_not_be",
    needs.company: "test_pods_are_apart_spread_and_together_as_they_ask",
    locality.figure: "test_locality_saves_most_of_the_bytes",
    interference.figure: "test_services_are_kept_from_what_slows_them",
    deadlines.figure: "test_no_deadline_is_missed_and_nobody_waits_much_longer",
}


def main() -> None:
    table = Table("FACTOR", "FIGURE", "WITHOUT", "WITH", "TEST", box=None)
    for made, test in FACTORS.items():
        figure = made()
        table.add_row(figure.factor, figure.what, f"{figure.without:,.2f}", f"{figure.with_it:,.2f}", test)
    # As wide as it needs to be: a name that is cut cannot be given to pytest.
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
