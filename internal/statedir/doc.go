// Package statedir is the agent's state directory and the TPM that its keys belong to. The daemon
// and the commands beside it open keys through it, so that both are held to the same rules.
//
//	STATE_DIR/storage-root    Name of the TPM's storage root, hexadecimal
//	STATE_DIR/keys/NAME/      a named key; package keystore owns what is in there
//	STATE_DIR/software-key.pem, binding certificates: see package engine
//
// # The pinned storage root
//
// Every key is wrapped by the TPM's storage root, and sessions are salted to it. An interposer
// between agent and TPM that shows a root of its own would learn the sessions' keys. The Name of
// the root is therefore noted with the first key, and from then on no other root is accepted,
// wherever in the TPM it is. A note that cannot be read is kept, and no root is accepted meanwhile;
// one that is torn is put aside with a warning, because an attacker who could tear it could also
// remove it.
//
// What always holds:
//   - Nothing is made where there is no TPM, and nothing by a command that only looks
//     ([Options.LookOnly]): a directory that another user than the agent's made would keep the
//     agent out.
//   - No root is noted before there is a key that belongs to it.
//   - Advice on a key never is to delete it while the TPM may still be able to load it.
//
// # Sources
//
// TPM 2.0 Part 1, 16 (Names) and 19.6.8 (salted sessions); TCG TPM v2.0 Provisioning Guidance,
// 7.5.1 (storage primary key).
package statedir
