// Package keyring is what the key and cert commands do: it makes, shows, certifies, rotates and
// deletes the named keys of a state directory, beside a running agent or without one.
//
// A [Keyring] opens the TPM when something is first asked of it, so that a certificate can be shown
// and a key deleted on a machine whose TPM is gone. Only package keystore writes to a key's
// directory, under a lock that the commands and the agent share.
//
// [RotateBindingKey] is apart from the rest, because the agent's own key has certificates that only
// the platform issues: it makes an engine on the next key and has it obtain a token for each
// identity that is bound to the key, before the agent switches to it.
//
// Results are reports, with everything that a person or a script may want to know. Requests are
// values, whatever flags they come from; one that cannot be carried out as it was made is a
// [RequestError]. What to do about any other error is said as advice (package advice).
//
// What always holds:
//   - An authorization value is tried on the one key that it was given for: a TPM counts wrong
//     values and locks the keys of all programs after a few.
//   - A certificate that works and is in use is replaced only if the request says so, and is kept.
//   - A rotation switches only to a key that has proved to work.
package keyring
