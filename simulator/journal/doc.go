// Package journal remembers what the simulated platform was asked and what it answered.
//
// Tests read it to count issuances, to see which certificate a handshake showed, and to learn why
// something was refused. It is bounded: the oldest entries go first. It never holds a token, a
// request body or a private key.
package journal
