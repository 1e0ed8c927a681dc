// Package keyring is what the commands key and cert do.
package keyring
