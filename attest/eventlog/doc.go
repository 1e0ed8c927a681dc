// Package eventlog reads the TCG event log: what firmware and boot loaders say that they have
// measured into a TPM's registers.
//
//	log ──► Trim, Parse ──► events ──► replay to the quoted PCRs ──► facts from what replays
//
// A log proves nothing by itself; anybody may write one. What a quote proves is the value of a
// register, and with it the digests that it was extended with, in their order. [Read] therefore
// takes facts from registers only that the log replays to, and from an event only what its digest
// covers.
//
// # What is covered, and what is not
//
//   - The type of an event is covered by nothing. Where it matters, every event of a register must
//     be understood, so that none can be hidden under another type.
//   - EV_SEPARATOR, EV_EFI_ACTION, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_AUTHORITY: the
//     digest is that of the data. Facts are read from them.
//   - EV_EFI_BOOT_SERVICES_APPLICATION: the digest is the Authenticode hash of the image. The path
//     in its data is covered by nothing and is not read.
//   - EV_IPL: the program that measures decides. GRUB measures its commands and the kernel's
//     command line without the label that the log shows before them (PCR 8), systemd-stub the
//     command line in UTF-16 (PCR 12). Facts are read from these if the digest is that of the text.
//     For a file that GRUB reads (PCR 9) and a section of a unified kernel image (PCR 11) the log
//     shows a name and the digest is that of the content: nothing is read from them. So the command
//     line inside a unified kernel image is not shown; its digest is part of the image's, see
//     BootLoaders.
//   - EV_EVENT_TAG: the kernel's own EFI stub measures its command line into PCR 9 and the log
//     shows a constant. Not read.
//   - EV_NO_ACTION: it extends no register, and is not read, but for the locality that the TPM was
//     started from, which is the first value of PCR 0.
//   - EV_POST_CODE, EV_EFI_PLATFORM_FIRMWARE_BLOB, EV_EFI_VARIABLE_BOOT and others: replayed, not
//     read.
//   - Digests of banks other than SHA-256 are skipped.
//
// # What a program in the guest can do
//
// Root may extend any register after the boot, and add to the log what it extended. It cannot take
// away earlier measurements. That is why Secure Boot is read only from events before the separator
// of PCR 7; why the images of a boot are held to a list of all allowed ones, and not searched for
// one that must be there; and why the command lines count only if each text in PCRs 8 and 12 is
// readable, and each file that GRUB's commands loaded has a path that begins with "/" or "(": only
// then is a command line known from a command. A loader that measures nothing leaves PCRs 8 and 12
// to root altogether: what they show is worth as much as the loaders in PCR 4.
//
// # Invariants
//
//   - Sizes and numbers are checked before anything is allocated or skipped; a log of the largest
//     size costs a few milliseconds.
//   - A fact that cannot be read is "not stated" with a reason, never a default.
//   - Only the standard library is used: parsers of others come with the TPM clients of their
//     modules. Tests hold this one to go-attestation's.
//
// Sources: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 to 10.4; UEFI 2.10, chapter
// 32; GRUB manual, "Measured Boot"; systemd, "TPM2 PCR Measurements Made by systemd".
package eventlog
