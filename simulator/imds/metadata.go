package imds

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/pki"
)

// computeUnit is cuId. A stand-alone VM has no vmssId, not even an empty one.
type computeUnit struct {
	VMID string `json:"vmId"`
}

// computeUnit returns cuId as compact JSON, the one form that a certificate request may repeat it
// in.
func (s *Server) computeUnit() (json.RawMessage, error) {
	return json.Marshal(computeUnit{VMID: s.cfg.VMID})
}

// platformMetadata is the first request of managed identity v2.
func (s *Server) platformMetadata(r *http.Request, e *journal.Entry) (any, error) {
	id, err := s.identity(r)
	if err != nil {
		return nil, err
	}
	e.Set("client_id", id.ClientID)
	unit, err := s.computeUnit()
	if err != nil {
		return nil, err
	}
	return struct {
		ClientID            string          `json:"clientId"`
		TenantID            string          `json:"tenantId"`
		ComputeUnit         json.RawMessage `json:"cuId"`
		AttestationEndpoint string          `json:"attestationEndpoint"`
	}{id.ClientID, s.cfg.TenantID, unit, s.cfg.AttestationEndpoint}, nil
}

// certification serves the processor's certificates (trusted hardware identity management). The
// chain is ASK, then ARK.
func (s *Server) certification(*http.Request, *journal.Entry) (any, error) {
	return struct {
		VCEK         string `json:"vcekCert"`
		TCB          string `json:"tcbm"`
		Chain        string `json:"certificateChain"`
		CacheControl string `json:"cacheControl"` // seconds
	}{
		VCEK:         string(s.cfg.Processor.VCEKPEM()),
		TCB:          strconv.FormatUint(pki.TCB(), 16),
		Chain:        string(s.cfg.Processor.RootsPEM()),
		CacheControl: "86400",
	}, nil
}
