package simulator

import (
	"errors"
	"io"
	"net/http"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/internal/leg"
)

// finish answers 204, or 400 with the error.
func finish(w http.ResponseWriter, err error) {
	if err != nil {
		badRequest(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// postReject makes Entra refuse a certificate with a code: {"thumbprint":"<x5t#S256>","code":1000612}.
func (p *Platform) postReject(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Thumbprint string `json:"thumbprint"`
		Code       int    `json:"code"`
	}
	err := readControl(w, r, &request)
	if err == nil && request.Thumbprint == "" {
		err = errors.New("no thumbprint")
	}
	if err == nil {
		p.Reject(request.Thumbprint, request.Code)
	}
	finish(w, err)
}

func (p *Platform) postDistrust(w http.ResponseWriter, _ *http.Request) {
	p.DistrustAttestation()
	finish(w, nil)
}

// postApplication changes an application's policy: {"mtls_enabled":true,"assertion_over_mtls":"required"}. What is left out stays.
func (p *Platform) postApplication(w http.ResponseWriter, r *http.Request) {
	policy, err := p.ApplicationPolicy(r.PathValue("name"))
	if err == nil {
		err = readControl(w, r, &policy)
	}
	if err == nil {
		err = p.SetApplication(r.PathValue("name"), policy)
	}
	finish(w, err)
}

// postCertificate registers a certificate, in PEM.
func (p *Platform) postCertificate(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBytes))
	if err != nil {
		badRequest(w, err)
		return
	}
	certificates, err := attest.ParseCertificates(body)
	if err == nil && len(certificates) != 1 {
		err = errors.New("want one certificate")
	}
	if err == nil {
		err = p.RegisterCertificate(r.PathValue("name"), certificates[0])
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	leg.WriteJSON(w, http.StatusCreated, map[string]string{"thumbprint": leg.Thumbprint(certificates[0].Raw)})
}

// postFederated adds a federated credential: {"issuer":"https://…","subject":"…","audience":"…","keys":{"keys":[…]}}.
func (p *Platform) postFederated(w http.ResponseWriter, r *http.Request) {
	var request struct {
		entra.FederatedCredential
		Keys *jose.JSONWebKeySet `json:"keys"`
	}
	err := readControl(w, r, &request)
	if err == nil {
		err = p.Federate(r.PathValue("name"), request.FederatedCredential, request.Keys)
	}
	finish(w, err)
}

// postTenant replaces the tenant's policy: {"deny_bound":true,"bound_bearer":false}.
func (p *Platform) postTenant(w http.ResponseWriter, r *http.Request) {
	var policy entra.TenantPolicy
	err := readControl(w, r, &policy)
	if err == nil {
		p.SetTenant(policy)
	}
	finish(w, err)
}

// postIMDS replaces the behaviour of IMDS: {"no_v2":true,"bypass_cache":"refused","limit":{"per_second":20,"concurrent":5}}.
func (p *Platform) postIMDS(w http.ResponseWriter, r *http.Request) {
	var b imds.Behaviour
	err := readControl(w, r, &b)
	if err == nil {
		err = p.SetIMDS(b)
	}
	finish(w, err)
}

// postChallenge takes the claims that the resource asks for: {"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}; {} ends it.
func (p *Platform) postChallenge(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBytes))
	if err == nil {
		err = p.Challenge(string(body))
	}
	finish(w, err)
}
