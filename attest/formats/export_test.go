package formats

import "github.com/keyagent/keyagent/attest"

// ReadInfo reads the evidence in a CertificationRequestInfo, whose signature is another matter.
func ReadInfo(info []byte) (*attest.Evidence, error) {
	value, err := attestationOf(info)
	if err != nil {
		return nil, err
	}
	return readBundle(value)
}
