// Package cloud says what Microsoft's clouds are called and where their services are: the names
// that configurations use, the hosts of Microsoft Entra, the audiences of token exchange, the
// domains of Azure Attestation, and the address of the instance metadata service, which is the
// same in all of them.
//
// It is the only place in the product that holds these names. The simulator has tables of its own
// on purpose: a double that read this one would share its mistakes.
//
// The hosts of the public cloud and of US Government are in use by Microsoft's own clients; those
// of the other clouds follow their naming rule and have not been seen live.
package cloud

import (
	"slices"
	"strings"
)

// MetadataAddress is the link-local address at which every Azure VM finds its host's instance
// metadata service (IMDS), over plain HTTP.
const MetadataAddress = "169.254.169.254"

// MetadataEndpoint is the base URL of that service, without trailing slash.
const MetadataEndpoint = "http://" + MetadataAddress

// Names of the clouds, as configurations have them.
const (
	Public    = "public"
	USGov     = "us-gov"
	China     = "china"
	France    = "france"
	Germany   = "germany"
	Singapore = "singapore"
)

// PublicExchangeAudience is the audience of assertions in the public cloud. Those of the other
// clouds begin with it.
const PublicExchangeAudience = "api://AzureADTokenExchange"

// Cloud is one of Microsoft's clouds. It is a value; the zero value is no cloud.
type Cloud struct {
	Name      string // one of the constants of this package
	LoginHost string // of token requests without client certificate
	MTLSHost  string // of token requests with a client certificate

	// RegionalLoginDomain follows a region's name in the regional host for requests without
	// client certificate. In the public cloud it is another domain than LoginHost.
	RegionalLoginDomain string

	// ExchangeAudience is the audience of assertions for federated identity credentials. It is
	// empty where Microsoft has published none.
	ExchangeAudience string

	// AttestationDomain is the domain below which instances of Azure Attestation are. It is empty
	// where none is known.
	AttestationDomain string
}

// All returns every cloud that is known, the public one first.
func All() []Cloud {
	return []Cloud{
		{
			Public, "login.microsoftonline.com", "mtlsauth.microsoft.com", "login.microsoft.com",
			PublicExchangeAudience, "attest.azure.net",
		},
		uniform(USGov, "microsoftonline.us", PublicExchangeAudience+"USGov", "attest.azure.us"),
		uniform(China, "partner.microsoftonline.cn", PublicExchangeAudience+"China", ""),
		uniform(France, "sovcloud-identity.fr", PublicExchangeAudience+"France", ""),
		uniform(Germany, "sovcloud-identity.de", PublicExchangeAudience+"Germany", ""),
		uniform(Singapore, "sovcloud-identity.sg", "", ""),
	}
}

// uniform is a cloud whose hosts of Entra are all below one domain.
func uniform(name, domain, audience, attestation string) Cloud {
	return Cloud{name, "login." + domain, "mtlsauth." + domain, "login." + domain, audience, attestation}
}

// aliases are other names of login hosts, among them those of before 2018, which configurations
// still carry.
var aliases = map[string]string{
	"login.microsoft.com":     "login.microsoftonline.com",
	"login.windows.net":       "login.microsoftonline.com",
	"sts.windows.net":         "login.microsoftonline.com",
	"login.usgovcloudapi.net": "login.microsoftonline.us",
	"login.chinacloudapi.cn":  "login.partner.microsoftonline.cn",
}

// Named finds a cloud by its Name.
func Named(name string) (Cloud, bool) {
	return find(func(c Cloud) bool { return c.Name == name })
}

// OfLoginHost finds the cloud of a login host, without regard to case. It knows the aliases and
// legacy names of the hosts, too, and gives the cloud with the preferred ones.
func OfLoginHost(host string) (Cloud, bool) {
	host = strings.ToLower(host)
	if preferred, ok := aliases[host]; ok {
		host = preferred
	}
	return find(func(c Cloud) bool { return c.LoginHost == host })
}

func find(is func(Cloud) bool) (Cloud, bool) {
	all := All()
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	return Cloud{}, false
}
