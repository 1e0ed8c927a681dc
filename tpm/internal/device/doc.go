// Package device is the lower floor of package tpm: the exclusive use of one TPM 2.0, and nothing
// about what it is used for.
//
//	Address ── where the TPM is: a character device, a Unix or a TCP socket
//	conn    ── one command, one response, over a stream that can hang, break or lie
//	Device  ── the queue: one caller after the other has the TPM
//	Turn    ── a caller's exclusive use; it is a transport.TPM
//
// What stays in the TPM from turn to turn, keys and sessions of the floor above, is known here as a
// [Resident] alone: a handle, the Name if it is an object, and whether it gives way when its slot
// is needed. The floor above never asks which slots are free, and this one never loads anything.
//
// What always holds:
//
//   - A command that was sent is never abandoned: a caller who goes leaves its answer to be read
//     before the next turn.
//   - A flush that cannot be done now is noted and tried again, until the TPM says that the handle
//     is free ([Turn.Flush]).
//   - Handles are numbers that other programs use, too. Without a resource manager, nothing from an
//     earlier turn is flushed before it was made sure that the TPM was not reset since, and that an
//     object still has its Name.
//   - A handle that the TPM gives out replaces the entry of any object or session noted there.
//
// Sources: TPM 2.0 Library, Parts 1 to 3, revision 1.59; Linux drivers/char/tpm/tpm-dev-common.c
// and tpm2-space.c.
package device
