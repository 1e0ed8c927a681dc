package simulator

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// maxControlBytes limits a request to the control endpoint.
const maxControlBytes = 64 << 10

// control returns the endpoint through which other processes look at the platform and make it
// misbehave. It is not part of the VM, and no real VM has it.
func (p *Platform) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /journal", p.getJournal)
	mux.HandleFunc("GET /faults", p.getFaults)
	mux.HandleFunc("POST /faults", p.postFault)
	mux.HandleFunc("DELETE /faults", p.deleteFaults)
	mux.HandleFunc("POST /tpm/reset", p.postReset)
	mux.HandleFunc("GET /clock", p.getClock)
	mux.HandleFunc("POST /clock", p.postClock)
	mux.HandleFunc("POST /certificates/revoke", p.postRevoke)
	mux.HandleFunc("POST /certificates/reject", p.postReject)
	mux.HandleFunc("POST /attestation/distrust", p.postDistrust)
	mux.HandleFunc("POST /applications/{name}", p.postApplication)
	mux.HandleFunc("POST /applications/{name}/certificates", p.postCertificate)
	mux.HandleFunc("POST /applications/{name}/trusted", p.postTrusted)
	mux.HandleFunc("POST /authority", p.postAuthority)
	mux.HandleFunc("POST /applications/{name}/federated", p.postFederated)
	mux.HandleFunc("POST /tenant", p.postTenant)
	mux.HandleFunc("POST /imds", p.postIMDS)
	mux.HandleFunc("POST /resource/challenge", p.postChallenge)
	return mux
}

// getJournal answers the kept entries, oldest first; ?operation= selects those of one operation.
func (p *Platform) getJournal(w http.ResponseWriter, r *http.Request) {
	entries := p.journal.Entries()
	if name := r.URL.Query().Get("operation"); name != "" {
		entries = p.journal.Operation(name)
	}
	endpoint.WriteJSON(w, http.StatusOK, append([]journal.Entry{}, entries...)) // [] and not null when empty
}

func (p *Platform) getFaults(w http.ResponseWriter, _ *http.Request) {
	endpoint.WriteJSON(w, http.StatusOK, append([]fault.Fault{}, p.faults.List()...))
}

func (p *Platform) postFault(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBytes))
	var f fault.Fault
	if err == nil {
		f, err = fault.Parse(body)
	}
	if err == nil {
		err = p.faults.Add(f)
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	p.getFaults(w, r)
}

func (p *Platform) deleteFaults(w http.ResponseWriter, r *http.Request) {
	p.faults.Clear()
	p.getFaults(w, r)
}

func (p *Platform) postReset(w http.ResponseWriter, r *http.Request) {
	if err := p.ResetTPM(r.Context()); err != nil {
		endpoint.WriteJSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	count, err := p.resets()
	finish(w, map[string]uint32{"reset_count": count}, err)
}

func (p *Platform) getClock(w http.ResponseWriter, _ *http.Request) {
	endpoint.WriteJSON(w, http.StatusOK, map[string]time.Time{"now": p.clock.Now()})
}

// postClock advances the clock: {"advance":"1h"}.
func (p *Platform) postClock(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Advance fault.Duration `json:"advance"`
	}
	err := readControl(w, r, &request)
	if err == nil {
		err = p.clock.Advance(time.Duration(request.Advance))
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	p.getClock(w, r)
}

// postRevoke revokes a certificate: {"thumbprint":"<x5t#S256>"}.
func (p *Platform) postRevoke(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Thumbprint string `json:"thumbprint"`
	}
	err := readControl(w, r, &request)
	if err == nil && request.Thumbprint == "" {
		err = fmt.Errorf("no thumbprint")
	}
	if err != nil {
		badRequest(w, err)
		return
	}
	if !p.knows(w, request.Thumbprint) {
		return
	}
	p.Revoke(request.Thumbprint)
	finish(w, p.rejected(), nil)
}

func readControl(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBytes))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

func badRequest(w http.ResponseWriter, err error) {
	endpoint.WriteJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
}
