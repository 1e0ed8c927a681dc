package imds

import (
	"context"

	"github.com/keyagent/keyagent/internal/upstream"
)

// Compute is what IMDS says of the VM itself. Nobody has signed it, so it is for people to read and
// for proposals that they look at; nothing is allowed because of it. What IMDS left out is empty.
type Compute struct {
	Region       string // such as "westeurope"
	Environment  string // the cloud, such as "AzurePublicCloud"
	Size         string // such as "Standard_DC2as_v5"
	SecurityType string // "ConfidentialVM", "TrustedLaunch"
	ResourceID   string // ARM resource id
}

// Compute asks what IMDS says of the VM. It takes two seconds at most.
func (c *Client) Compute(ctx context.Context) (Compute, error) {
	members, err := c.compute(ctx)
	if err != nil {
		return Compute{}, err
	}
	found := Compute{
		Environment: optional(members, "azEnvironment"),
		Size:        optional(members, "vmSize"),
		ResourceID:  optional(members, "resourceId"),
	}
	if security, err := members.Object("securityProfile"); err == nil {
		found.SecurityType = optional(security, "securityType")
	}
	found.Region, err = regionOf(members)
	return found, err
}

// optional is a text that may be missing, in the form in which texts of other services are shown.
func optional(members upstream.Members, name string) string {
	text, err := members.Text(name)
	if err != nil {
		return ""
	}
	return upstream.Text(text)
}
