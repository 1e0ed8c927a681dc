package engine

import "crypto/x509"

// RootCAs are the authorities that are trusted for servers outside of the VM; nil: those of the
// system.
func (p *Plan) RootCAs() *x509.CertPool { return p.rootCAs }
