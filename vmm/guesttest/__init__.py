# SPDX-License-Identifier: Apache-2.0
"""`vmm test`: runs guests written in the style of kvm-unit-tests and judges them.

config        unittests.cfg, the file that says which guests exist and how each is started
shell_words   the shell syntax inside that file's values
qemu_options  an entry's QEMU options, translated to options of `vmm run`
guests        PATHs of the command line -> the list of guests to run
targets       the program that runs a guest (`vmm run`, QEMU): its command line, how it ended
console       what a guest printed, read as it comes, in bounded memory
images        how a guest's file lets it report
verdict       ending + console -> PASS, FAIL, SKIP ...; the rule is written there
child, runner child processes, their time limits and output; several at a time
report, junit progress, table, JSON, JUnit XML
pytest_plugin guests as pytest items
compare       the same guests under QEMU and here, side by side

Nothing here opens /dev/kvm or knows the machine: a guest always runs in a process of its own.
"""
