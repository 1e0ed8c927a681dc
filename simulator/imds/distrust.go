package imds

import "crypto/sha256"

// issuance is a certificate that was issued on an attestation token.
type issuance struct {
	attestation [sha256.Size]byte // digest of the token
	thumbprint  string
}

// noteIssuance remembers what a certificate was issued on. One on a token that is distrusted is
// rejected at once: a client must attest again; another certificate on the same token does not
// help.
func (s *Server) noteIssuance(attestationToken, thumbprint string) {
	i := issuance{sha256.Sum256([]byte(attestationToken)), thumbprint}
	s.mu.Lock()
	s.issued = append(s.issued, i)
	s.known[thumbprint] = true
	distrusted := s.distrusted[i.attestation]
	s.mu.Unlock()
	if distrusted {
		s.cfg.Reject(thumbprint)
	}
}

// HasIssued reports whether the certificate with this thumbprint (x5t#S256) was issued here.
func (s *Server) HasIssued(thumbprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[thumbprint]
}

// Distrust makes every attestation token that was used up to now a bad one: certificates issued on
// them, before and after, are rejected. IMDS itself still accepts the tokens; as on Azure, the
// token endpoint refuses the certificates.
func (s *Server) Distrust() {
	s.mu.Lock()
	issued := s.issued
	s.issued = nil
	for _, i := range issued {
		s.distrusted[i.attestation] = true
	}
	s.mu.Unlock()
	for _, i := range issued {
		s.cfg.Reject(i.thumbprint)
	}
}
