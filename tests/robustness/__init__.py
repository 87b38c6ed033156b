"""A store of real processes is harmed under load, and everything that its clients saw is checked.

    __main__   the program: `make robustness ROUNDS=200`, or `python -m tests.robustness --help`
    rounds     a run: rounds of load and faults, and audits
    faults, machine_faults, member_faults     what is done to members
    network, switch     namespaces, and the program that carries (and mistreats) every packet between them
    disks, clocks     disks that lose power and fail; clocks that jump
    members     the processes
    workloads, leases, watching     what clients do, and what they may expect
    history, truth     what they saw, and what the store says happened
    sabotage     members with planted mistakes, which a run must notice

The order of operations on an object is searched by `tests/kit/linearizability.py`.
"""
