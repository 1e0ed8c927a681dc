// Package keystore owns the life of the named keys of a state directory: making, adopting, rotating
// and deleting them, and the certificates that lie beside them. No other package writes, moves or
// deletes anything in a key's directory.
//
// A [Store] keeps each key in generations, numbered from 1. A rotation makes the next generation
// beside the current one ([Store.BeginRotation]), and switches to it when a [Prove] has shown that
// key and certificate work together ([Store.FinishRotation]). [Store.GoBack] switches to the
// generation before, which is kept until the next rotation begins. [ProveHere] and [ProveAt] prove
// by TLS handshakes.
//
// [Store.Import] puts a certificate beside a key. It keeps what it replaces, and replaces a
// certificate that works and is in use only if that is meant; [Store.Replaced] is the way back.
//
// What always holds:
//
//   - A key file is written once and never overwritten; a generation's key file is removed last, so
//     that a removal that was interrupted can be repeated.
//   - At each moment, and after a power cut at each moment, key and certificate of one generation
//     are in use together.
//   - Keys and certificates are changed under the store's lock only, and the preconditions of a
//     change are checked under it. Reading needs no lock.
//
// # Errors
//
// [ErrNoKey], [ErrGenerationMissing] and [ErrKeyExists] say which files exist; [InUseError] is an
// error of Import, [ErrNoneReplaced] of Replaced, [ErrNoCertificate] and [ErrNotAsked] of proofs.
// Errors of packages signer, certreq and tpm pass through.
//
// # Sources
//
// flock(2). RFC 8446 (TLS 1.3), 2: when a client knows that its certificate was accepted. RFC 7515,
// 4.1.8: x5t#S256.
package keystore
