package simulator

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/pki"
)

// finish answers 200 with what holds now, or 400 with the error.
func finish(w http.ResponseWriter, state any, err error) {
	if err != nil {
		badRequest(w, err)
		return
	}
	endpoint.WriteJSON(w, http.StatusOK, state)
}

// postReject makes Entra refuse a certificate with a code:
// {"thumbprint":"<x5t#S256>","code":1000612}.
func (p *Platform) postReject(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Thumbprint string `json:"thumbprint"`
		Code       int    `json:"code"`
	}
	err := readControl(w, r, &request)
	if err == nil && request.Thumbprint == "" {
		err = errors.New("no thumbprint")
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	if !p.knows(w, request.Thumbprint) {
		return
	}
	p.Reject(request.Thumbprint, request.Code)
	finish(w, p.rejected(), nil)
}

// knows reports whether there is such a certificate, and answers 404 if not: a misspelt thumbprint
// would provoke nothing.
func (p *Platform) knows(w http.ResponseWriter, thumbprint string) bool {
	if p.entra.IsRegistered(thumbprint) || p.imds.HasIssued(thumbprint) {
		return true
	}
	endpoint.WriteJSON(w, http.StatusNotFound, map[string]string{"error": fmt.Sprintf(
		"no certificate with the thumbprint %.60q was issued by imds or registered for an application; a thumbprint is an x5t#S256", thumbprint)})
	return false
}

// rejected is what Entra answers for which certificate.
func (p *Platform) rejected() any { return map[string]map[string]int{"rejected": p.entra.Rejected()} }

func (p *Platform) postDistrust(w http.ResponseWriter, _ *http.Request) {
	p.DistrustAttestation()
	finish(w, p.rejected(), nil)
}

// applicationState is all that the directory has of an application.
type applicationState struct {
	Application
	entra.ApplicationPolicy
	entra.Registration
}

// finishApplication is finish with the state of an application.
func (p *Platform) finishApplication(w http.ResponseWriter, name string, err error) {
	var state applicationState
	if err == nil {
		state, err = p.application(name)
	}
	finish(w, state, err)
}

func (p *Platform) application(name string) (applicationState, error) {
	var state applicationState
	at := slices.IndexFunc(p.info.Applications, func(a Application) bool { return a.Name == name })
	if at < 0 {
		return state, noApplication(name)
	}
	var errPolicy, errRegistration error
	state.Application = p.info.Applications[at]
	state.ApplicationPolicy, errPolicy = p.entra.Policy(state.ClientID)
	state.Registration, errRegistration = p.entra.Registration(state.ClientID)
	return state, errors.Join(errPolicy, errRegistration)
}

// postApplication changes an application's policy: {"mtls_enabled":true,"mtls_refusal":51000,
// "plain_certificates":false,"assertion_over_mtls":"required"}. Members that are left out keep
// their value.
func (p *Platform) postApplication(w http.ResponseWriter, r *http.Request) {
	policy, err := p.ApplicationPolicy(r.PathValue("name"))
	if err == nil {
		err = readControl(w, r, &policy)
	}
	if err == nil {
		err = p.SetApplication(r.PathValue("name"), policy)
	}
	p.finishApplication(w, r.PathValue("name"), err)
}

// postCertificate registers a certificate, in PEM.
func (p *Platform) postCertificate(w http.ResponseWriter, r *http.Request) {
	certificate, err := readCertificate(w, r)
	if err == nil {
		err = p.RegisterCertificate(r.PathValue("name"), certificate)
	}
	p.finishApplication(w, r.PathValue("name"), err)
}

// postTrusted registers trust by subject and issuer: the issuer's certificate in PEM, and
// ?subject=, a common name.
func (p *Platform) postTrusted(w http.ResponseWriter, r *http.Request) {
	issuer, err := readCertificate(w, r)
	if err == nil {
		err = p.Trust(r.PathValue("name"), r.URL.Query().Get("subject"), issuer)
	}
	p.finishApplication(w, r.PathValue("name"), err)
}

// postAuthority issues a certificate for a certificate request, both in PEM. The authority's own
// follows it.
func (p *Platform) postAuthority(w http.ResponseWriter, r *http.Request) {
	chain, err := p.issue(http.MaxBytesReader(w, r.Body, maxControlBytes))
	if err != nil {
		badRequest(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = w.Write(pki.EncodePEM(chain...)) // a client that hangs up does not want it
}

// issue reads a certificate request, which must be signed by its own key.
func (p *Platform) issue(body io.Reader) ([]*x509.Certificate, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one certificate request in PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request's signature: %w", err)
	}
	leaf, err := p.apps.Issue(request, p.clock.Now())
	return []*x509.Certificate{leaf, p.apps.Certificate}, err
}

func readCertificate(w http.ResponseWriter, r *http.Request) (*x509.Certificate, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBytes))
	if err != nil {
		return nil, err
	}
	certificates, err := attest.ParseCertificates(body)
	if err == nil && len(certificates) != 1 {
		err = errors.New("want one certificate")
	}
	if err != nil {
		return nil, err
	}
	return certificates[0], nil
}

// postFederated adds a federated credential:
// {"issuer":"https://…","subject":"…","audience":"…","keys":{"keys":[…]}}.
func (p *Platform) postFederated(w http.ResponseWriter, r *http.Request) {
	var request struct {
		entra.FederatedCredential
		Keys *jose.JSONWebKeySet `json:"keys"`
	}
	err := readControl(w, r, &request)
	if err == nil {
		err = p.Federate(r.PathValue("name"), request.FederatedCredential, request.Keys)
	}
	p.finishApplication(w, r.PathValue("name"), err)
}

// postTenant replaces the tenant's policy: {"deny_bound":true,"bound_bearer":false}.
func (p *Platform) postTenant(w http.ResponseWriter, r *http.Request) {
	var policy entra.TenantPolicy
	err := readControl(w, r, &policy)
	if err == nil {
		p.SetTenant(policy)
	}
	finish(w, policy, err)
}

// postIMDS replaces the behaviour of IMDS:
// {"no_v2":true,"bypass_cache":"refused","limit":{"per_second":20,"concurrent":5}}.
func (p *Platform) postIMDS(w http.ResponseWriter, r *http.Request) {
	var b imds.Behaviour
	err := readControl(w, r, &b)
	if err == nil {
		err = p.SetIMDS(b)
	}
	finish(w, b, err)
}

// postChallenge takes the claims that the resource asks for:
// {"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}; {} ends it.
func (p *Platform) postChallenge(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBytes))
	if err == nil {
		err = p.Challenge(string(body))
	}
	finish(w, json.RawMessage(body), err)
}
