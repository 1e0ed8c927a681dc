// Package bootlog writes the measured boot log of a simulated machine: what firmware and boot
// loaders leave in the TPM's registers and, beside it, in the TCG event log.
//
// [Boot] is the log of an ordinary Linux machine with UEFI, Secure Boot, shim, GRUB and a kernel.
// [Log] is the writer under it, for tests that need something else: it writes what it is told, also
// what no firmware would.
//
// Sources: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 and 10.4; the events of an
// Ubuntu machine as GRUB 2.12 and shim 15.8 leave them.
package bootlog
