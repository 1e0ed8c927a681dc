package entra

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/internal/cloud"
)

// Authority is where an app registration gets its tokens: a tenant in a cloud. Tenant must have
// passed [CheckTenant]. A managed identity needs none: the metadata service names its endpoint.
type Authority struct {
	Cloud  cloud.Cloud
	Tenant string // GUID or verified domain

	// LoginURL and MTLSURL, if set, stand in place of the cloud's hosts: base URLs
	// without tenant, to which no region is put.
	LoginURL, MTLSURL string
}

// TokenEndpoint returns the URL for requests without client certificate. An empty or
// invalid region means the global host.
func (a Authority) TokenEndpoint(region string) string {
	global, regional := a.Cloud.LoginHost, a.Cloud.RegionalLoginDomain
	return tokenURL(baseURL(a.LoginURL, region, global, regional), a.Tenant)
}

// MTLSTokenEndpoint returns the URL for requests with a client certificate. An empty
// or invalid region means the global host.
func (a Authority) MTLSTokenEndpoint(region string) string {
	return tokenURL(baseURL(a.MTLSURL, region, a.Cloud.MTLSHost, a.Cloud.MTLSHost), a.Tenant)
}

// ManagedIdentityEndpoint returns the URL for a managed identity: base is what the
// metadata service answered as mtls_authentication_endpoint, which has its region in
// it already.
func ManagedIdentityEndpoint(base, tenantID string) string { return tokenURL(base, tenantID) }

func baseURL(override, region, global, regional string) string {
	switch {
	case override != "":
		return override
	case ValidRegion(region):
		return "https://" + region + "." + regional
	}
	return "https://" + global
}

func tokenURL(base, tenant string) string {
	return strings.TrimRight(base, "/") + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/token"
}

// regionForm is what all of Microsoft's clients accept. A region becomes a label of a host name, so
// a dot in it would lead to a host outside the cloud.
var regionForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}$`)

// ValidRegion reports whether s can be an Azure region such as "westeurope".
func ValidRegion(s string) bool { return regionForm.MatchString(s) }

var (
	domainForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

	// sharedTenants stand for "whichever tenant the user is in", and a workload has
	// no user.
	sharedTenants = map[string]bool{"common": true, "organizations": true, "consumers": true}
)

// CheckTenant accepts a tenant's GUID or one of its verified domains.
func CheckTenant(s string) error {
	lower := strings.ToLower(s)
	switch {
	case sharedTenants[lower]:
		return fmt.Errorf("tenant %q stands for many tenants: a workload needs the id of one", s)
	case len(s) == 36 && uuid.Validate(s) == nil:
		return nil
	case len(s) <= 253 && domainForm.MatchString(lower):
		return nil
	}
	return fmt.Errorf("tenant %q is neither a GUID nor a domain such as contoso.onmicrosoft.com", s)
}
