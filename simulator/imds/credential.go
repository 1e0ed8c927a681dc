package imds

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// issueCredential is the second request of managed identity v2: a certificate request and an
// attestation token for a binding certificate.
func (s *Server) issueCredential(r *http.Request, e *journal.Entry) (any, error) {
	id, err := s.identity(r, "bypass_cache") // by the specification of revocation; whether the service has it is not known: [Behaviour]
	if err != nil {
		return nil, err
	}
	e.Set("client_id", id.ClientID)
	bypass := r.URL.Query().Get("bypass_cache") == "true"
	e.Set("bypass_cache", bypass)
	if bypass && s.current().BypassCache == BypassRefused {
		return nil, refuse("Unsupported query variables: bypass_cache")
	}
	body, err := readCredentialRequest(r)
	if err != nil {
		return nil, err
	}
	key, err := s.checkCredentialRequest(body, id)
	if err != nil {
		return nil, err
	}
	cert, err := s.cfg.Issuer.Issue(pki.BindingCertificate{
		ClientID: id.ClientID, Key: key, Now: s.cfg.Now(), Life: s.cfg.BindingLife, TokenLife: s.cfg.TokenLife,
	})
	if err != nil {
		return nil, err
	}
	s.noteIssuance(body.AttestationToken, endpoint.Thumbprint(cert.Raw))
	noteCertificate(e, cert)
	return s.credential(id, cert), nil
}

// checkCredentialRequest returns the key that the body proves possession and residence of.
func (s *Server) checkCredentialRequest(body *credentialRequest, id *Identity) (*rsa.PublicKey, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(body.CSR)
	if err != nil || len(der) == 0 {
		return nil, refuse("csr is not base64")
	}
	request, err := parseCertificateRequest(der)
	if err != nil {
		return nil, refuse("csr: %v", err)
	}
	if err := s.checkSubject(request, id); err != nil {
		return nil, err
	}
	if body.AttestationToken == "" {
		return nil, refuse("Attestation Token is missing or empty in the issue credential request")
	}
	if err := s.checkAttestation(body.AttestationToken, request.key); err != nil {
		return nil, refuse("attestation token: %v", err)
	}
	return request.key, nil
}

// checkSubject compares what the request says about VM and identity with what this IMDS knows.
func (s *Server) checkSubject(request *certificateRequest, id *Identity) error {
	unit, err := s.computeUnit()
	switch {
	case err != nil:
		return err
	case request.tenantID != s.cfg.TenantID:
		return refuse("csr: subject DC %q is not the tenant id %q", request.tenantID, s.cfg.TenantID)
	case request.clientID != id.ClientID:
		return refuse("csr: subject CN %q is not the client id %q", request.clientID, id.ClientID)
	case request.computeUnit != string(unit):
		return refuse("csr: attribute cuId is %q, want %q", request.computeUnit, unit)
	}
	return nil
}

type credentialRequest struct {
	CSR              string `json:"csr"`
	AttestationToken string `json:"attestation_token"`
}

func readCredentialRequest(r *http.Request) (*credentialRequest, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" || (params["charset"] != "" && params["charset"] != "utf-8") {
		return nil, refuse("Content-Type must be application/json; charset=utf-8")
	}
	dec := json.NewDecoder(io.LimitReader(r.Body, maxBodyBytes))
	dec.DisallowUnknownFields()
	var body credentialRequest
	if err := dec.Decode(&body); err != nil {
		return nil, refuse("body is not a credential request: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse("body has more than one JSON value, or is larger than %d bytes", maxBodyBytes)
	}
	return &body, nil
}

func (s *Server) credential(id *Identity, cert *x509.Certificate) any {
	identityType := "UserAssigned"
	if id.SystemAssigned {
		identityType = "SystemAssigned"
	}
	return struct {
		ClientID     string `json:"client_id"`
		TenantID     string `json:"tenant_id"`
		Certificate  string `json:"certificate"`
		IdentityType string `json:"identity_type"`
		MTLSEndpoint string `json:"mtls_authentication_endpoint"`
	}{id.ClientID, s.cfg.TenantID, base64.StdEncoding.EncodeToString(cert.Raw), identityType, s.cfg.MTLSEndpoint}
}

func noteCertificate(e *journal.Entry, cert *x509.Certificate) {
	e.Set("certificate_thumbprint", endpoint.Thumbprint(cert.Raw))
	e.Set("certificate_serial", cert.SerialNumber.Text(16))
	e.Set("certificate_not_after", cert.NotAfter.Format(time.RFC3339))
}
