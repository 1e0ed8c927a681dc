// Package imageprep removes from a machine what only this machine may have, before its disk becomes
// an image for others: keys, certificates, the note of the TPM's storage root, the key of programs'
// secrets. It does the same on a machine that was made of such an image before it was prepared.
//
// [Look] lists what there is, and [Inventory.Remove] removes that.
//
// What always holds:
//   - Nothing is removed while an agent runs, and none can start meanwhile: the state directory is
//     locked.
//   - Files not known to be the agent's are not removed, and keep the machine from being called
//     prepared.
//   - The note of the storage root goes last. An agent that starts after an interruption still
//     refuses keys of another TPM.
//   - The configuration stays: it is what an image is made for.
//
// The keys cannot be used on another machine anyway, whose TPM does not load them. What clones
// could share, if they were not removed, are the secrets that programs show to the agent
// (package appsecret) and, on a machine for development, a key that is no TPM's.
package imageprep
