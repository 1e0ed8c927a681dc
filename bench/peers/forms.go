package peers

import "github.com/keyagent/keyagent/tpm"

// A Form is a way to configure us.
type Form struct {
	Name   string     // of the session that a signature is made in
	Config tpm.Config // without the device
}

// Forms are compared with each peer.
func Forms() []Form {
	return []Form{
		{"protected", tpm.Config{}},
		{"plain", tpm.Config{PlainSessions: true}},
	}
}
