package pki

import (
	"crypto/rand"
	"crypto/rsa"
)

// Keys gives the RSA keys of authorities, a different one at each call; nil generates them. Generating
// one takes most of the time in which a platform starts: tests that start many take them from a pool.
type Keys func() (*rsa.PrivateKey, error)

// Next returns the next key.
func (k Keys) Next() (*rsa.PrivateKey, error) {
	if k == nil {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return k()
}
