// Package tpm is the agent's hand on the machine's TPM 2.0: a key that is made there, stays there and signs there, and the
// proofs that a TPM gives about it.
//
// [Open] takes a device. Everything else is a turn: a caller queues, gets the TPM for itself, sends its commands, and leaves.
//
//	Sign, Certify, Quote, ReadNV … ─┐
//	Do(ctx, func(transport.TPM))   ─┼─ queue, first come first served ─▶ session ─▶ /dev/tpmrm0, Unix or TCP socket
//	…                              ─┘
//
// What always holds:
//
//   - A turn is exclusive; waiting for it ends with the caller's context.
//   - A command that was sent is never abandoned. If its caller's context ends first, the caller goes, and the turn goes on
//     until the late answer was read; an object that it loaded is flushed. An answer is never taken for the answer to another
//     command.
//   - Commands that use a key or the owner's rights are sent in an HMAC session that is salted to the storage root, with the
//     first parameter encrypted in both directions where the command allows it: who is between this process and the TPM
//     changes nothing and learns no secret. What he could have answered is used only after its HMAC was found right. The
//     storage root is held to the Name that is known of it ([Config.StorageRoot]). Two sessions at most are kept, and none
//     that nobody uses.
//   - TPM_RC_RETRY, YIELDED, TESTING and NV_RATE are resent with growing pauses until the caller's context ends.
//   - A transport that hangs, closes or talks nonsense is dropped and reopened on next use. Commands of this package are then
//     repeated once; commands that a caller gave to [TPM.Do] are not, since only the caller knows whether they may be.
//   - A loaded [Key] is loaded again by itself after a TPM reset, a reopened transport, or when its slot was needed.
//   - A [Key] whose public area, as the TPM reports it, would permit export, or that was not made in the TPM, is not accepted.
//     What else its maker allowed it to do is reported, and refused on demand.
//   - No private byte of a key is ever in this process in the clear; there is no code that could handle one.
//
// A key is a child of the storage root (see [TPM.StorageRoot]) and lives in a file ([KeyFile]) that only this TPM can load. No NV
// memory is spent on it, unless [Key.Persist] is asked to. Its use may be tied to an authorization value and to PCR values.
//
// # Errors
//
// [ErrUnavailable]: the TPM cannot be reached now. [ErrForeignTPM]: a key file that another TPM made, or this one before it
// was cleared. [ErrStorageRoot]: another storage root than the known one. [ErrTampered]: an answer that the TPM did not give.
// [ErrExportable], [ErrAttributes]: a key that could leave the TPM, or that may do more than sign. [ErrAuthValue],
// [ErrPolicy], [ErrPCRsChanged]: a key that does not sign now. [ErrPCRBank]: PCRs whose bank is switched off. [ErrState]: the TPM
// is full, locked or broken, whatever was asked. [ErrNoNVIndex], [ErrClosed]. What the TPM itself answered is a
// [tpm2.TPMRC], without the layer bits that a resource manager adds; use errors.Is.
//
// # Sources
//
// TPM 2.0 Library, Parts 1 to 3, revision 1.59. TCG TPM v2.0 Provisioning Guidance 1.0, section 7.5.1 (storage primary
// templates). TCG EK Credential Profile 2.5, template H-2 in the form that the TSS2 key file format uses ("ASN.1 Specification for
// TPM 2.0 Key Files", J. Bottomley, D. Woodhouse). Linux drivers/char/tpm/tpm-dev-common.c and tpm2-space.c for the device.
package tpm
