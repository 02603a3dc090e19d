# SPDX-License-Identifier: Apache-2.0
"""The board's one PCI bus: configuration mechanism 1, type 0 functions, BARs, INTx routing, two bridges.

`config_space` keeps registers and knows no meaning; `function` is one device function; `bus` joins functions with
the port and MMIO bus and the interrupt lines; `bridges` are the 440FX and the PIIX3 as far as guests look for them.
Layouts: PCI Local Bus Specification 3.0, chapter 6.
"""
