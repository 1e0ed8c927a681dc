package imds

import (
	"net/http"
	"slices"

	"github.com/keyagent/keyagent/simulator/journal"
)

// computeVersions are the versions of the instance metadata, newest first.
func computeVersions() []string {
	return []string{"2021-12-13", "2021-11-15", "2021-10-01", "2021-05-01", "2021-03-01", "2021-02-01"}
}

// compute is the part of the instance metadata that says what kind of VM this is and where.
type compute struct {
	Environment string          `json:"azEnvironment"`
	Location    string          `json:"location"`
	Name        string          `json:"name"`
	OSType      string          `json:"osType"`
	Provider    string          `json:"provider"`
	ResourceID  string          `json:"resourceId"`
	Security    securityProfile `json:"securityProfile"`
	VMID        string          `json:"vmId"`
	Size        string          `json:"vmSize"`
}

// securityProfile has strings for truth values, as the real one has.
type securityProfile struct {
	SecureBoot   string `json:"secureBootEnabled"`
	SecurityType string `json:"securityType"`
	VirtualTPM   string `json:"virtualTpmEnabled"`
}

// computeMetadata serves the same content for every version that it knows.
func (s *Server) computeMetadata(r *http.Request, _ *journal.Entry) (any, error) {
	version := r.URL.Query()["api-version"]
	if len(version) != 1 || !slices.Contains(computeVersions(), version[0]) {
		return nil, &refusal{
			status: http.StatusBadRequest, code: "Bad request. api-version is invalid or was not specified in the request.",
			description: "unknown api-version", versions: computeVersions(),
		}
	}
	return compute{
		Environment: "AzurePublicCloud",
		Location:    s.cfg.Location,
		Name:        "vm",
		OSType:      "Linux",
		Provider:    "Microsoft.Compute",
		ResourceID:  s.systemResourceID(),
		Security:    securityProfile{SecureBoot: "true", SecurityType: "ConfidentialVM", VirtualTPM: "true"},
		VMID:        s.cfg.VMID,
		Size:        "Standard_DC2as_v5",
	}, nil
}

// systemResourceID is that of the VM, which its own identity shares.
func (s *Server) systemResourceID() string {
	for _, id := range s.cfg.Identities {
		if id.SystemAssigned {
			return id.ResourceID
		}
	}
	return ""
}
