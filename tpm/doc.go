// Package tpm uses the machine's TPM 2.0: it makes keys that stay in the TPM and sign there, and
// gets the statements by which the TPM attests them.
//
// [Open] takes a device. Everything else is a turn: a caller queues, gets the TPM for itself, sends
// its commands, and leaves.
//
//	Sign, Certify, Quote, … ───────┐
//	Do(ctx, func(transport.TPM)) ──┼─ queue, first come first served ─▶ session ─▶ device or socket
//	… ─────────────────────────────┘
//
// The package has two floors. The lower one, tpm/internal/device, has the connection, the queue and
// the slots; this one has storage root, sessions, keys and statements, and stands on it.
//
// What always holds:
//
//   - A turn is exclusive; waiting for it ends with the caller's context.
//   - A command that was sent is never abandoned. If its caller's context ends first, the caller
//     goes, and the turn goes on until the late answer was read; an object that it loaded is
//     flushed. An answer is never taken for the answer to another command.
//   - A flush that cannot be done now, because the TPM puts it off, its caller has gone or the
//     connection breaks, is noted and tried again: after the turn, in the next turns, and by
//     [TPM.Close]. Nobody waits for it, unless its slot is needed.
//   - Only the kernel's resource manager, a device of class tpmrm, is taken to begin empty with
//     each open. Any other device or socket keeps what is loaded, shares its slots with other
//     programs, and may give them a number that was ours before the TPM was reset. There, objects
//     and sessions of an earlier turn are flushed only if the TPM was not reset since
//     (TPM2_ReadClock), and objects only if they still have their Names.
//   - Without a resource manager, a connection that breaks before the answer to a command was read
//     leaves a handle that nobody knows. A key of ours is then found by its Name and flushed. A
//     storage root or a session cannot be told from another program's, and stays until the TPM
//     restarts.
//   - Commands that use a key or the owner's rights are sent in an HMAC session that is salted to
//     the storage root, with the first parameter encrypted in both directions where the command
//     allows it: an interposer between this process and the TPM can change nothing and learns no
//     secret. An answer is used only after its HMAC was found right. The storage root is held to
//     the Name that is known of it ([Config.StorageRoot]). Two sessions at most are kept, and none
//     that nobody uses.
//   - The TPM's properties are read once for each connection, and so are the public areas at
//     persistent handles: commands that use them have the object's Name under their HMAC, and fail
//     if another object is there meanwhile. Before each new session the storage root is read anew.
//   - TPM_RC_RETRY, YIELDED, TESTING and NV_RATE are resent with growing pauses until the caller's
//     context ends.
//   - A connection that hangs, closes or carries no valid response is dropped and reopened on next
//     use. Commands of this package are then repeated once; commands that a caller gave to [TPM.Do]
//     are not, since only the caller knows whether they may be.
//   - A loaded [Key] is loaded again by itself after a TPM reset, a reopened transport, or when its
//     slot was needed.
//   - A [Key] whose public area, as the TPM reports it, would permit export, or that was not made
//     in the TPM, is not accepted. Other attributes that weaken it are reported, and refused on
//     demand.
//   - No private byte of a key is ever in this process in the clear; there is no code that could
//     handle one.
//
// A key is a child of the storage root (see [TPM.StorageRoot]) and lives in a file ([KeyFile]) that
// only this TPM can load. No NV memory is spent on it, unless [Key.Persist] is asked to. Its parent
// is known by its Name and found wherever it is: where it was last, then where the key file says,
// at another persistent handle, or made anew as one of the storage keys that programs are known to
// make. A parent is called lost only after all of these places were looked into; see [ParentError].
// Its use may be tied to an authorization value and to PCR values.
//
// # Errors
//
// [ErrUnavailable]: the TPM cannot be reached now. [ErrForeignTPM]: a key file that another TPM
// made, or this one before it was cleared. [ErrStorageRoot]: another storage root than the known
// one. [ErrParentUnknown]: a storage key was not found, and not all places could be looked into.
// [ErrTampered]: an answer that the TPM did not give. [ErrExportable], [ErrAttributes]: a key that
// could leave the TPM, or that may do more than sign. [ErrAuthValue], [ErrPolicy],
// [ErrPCRsChanged]: a key that does not sign now. [ErrPCRBank]: PCRs whose bank is switched off.
// [ErrState]: the TPM is out of slots, in lockout or in failure mode, whatever was asked.
// [ErrKeyGone], [ErrCiphertext]: of a [DecryptionKey]. [ErrNoNVIndex], [ErrClosed]. What the TPM
// itself answered is a [tpm2.TPMRC], without the layer bits that a resource manager adds; use
// errors.Is.
//
// # Sources
//
// TPM 2.0 Library, Parts 1 to 3, revision 1.59. TCG TPM v2.0 Provisioning Guidance 1.0, section
// 7.5.1 (storage primary templates). TCG EK Credential Profile 2.5, template H-2 in the form that
// the TSS2 key file format uses ("ASN.1 Specification for TPM 2.0 Key Files", J. Bottomley, D.
// Woodhouse). Linux drivers/char/tpm/tpm-dev-common.c and tpm2-space.c for the device.
package tpm
