package entra

import (
	"slices"
	"strings"
)

// Cloud is one of Microsoft's clouds, as far as tokens go. It is a value; the zero
// value is no cloud.
type Cloud struct {
	Name      string // as in a configuration: "public", "us-gov", ...
	LoginHost string // of requests without client certificate
	MTLSHost  string // of requests with a client certificate

	// RegionalLoginDomain is what a region's name is put before, to name the
	// regional host without client certificate. In the public cloud it is another
	// domain than LoginHost.
	RegionalLoginDomain string

	// ExchangeAudience is the audience of assertions for federated identity
	// credentials. It is empty where Microsoft has published none.
	ExchangeAudience string
}

// clouds returns every cloud that is known. Hosts of the public cloud and of US
// Government are in use by Microsoft's own clients; the others follow their naming
// rule and have not been seen live.
func clouds() []Cloud {
	return []Cloud{
		{"public", "login.microsoftonline.com", "mtlsauth.microsoft.com", "login.microsoft.com", "api://AzureADTokenExchange"},
		uniform("us-gov", "microsoftonline.us", "api://AzureADTokenExchangeUSGov"),
		uniform("china", "partner.microsoftonline.cn", "api://AzureADTokenExchangeChina"),
		uniform("france", "sovcloud-identity.fr", "api://AzureADTokenExchangeFrance"),
		uniform("germany", "sovcloud-identity.de", "api://AzureADTokenExchangeGermany"),
		uniform("singapore", "sovcloud-identity.sg", ""),
	}
}

// uniform is a cloud whose hosts are all below one domain.
func uniform(name, domain, audience string) Cloud {
	return Cloud{name, "login." + domain, "mtlsauth." + domain, "login." + domain, audience}
}

// CloudNamed finds a cloud by its Name.
func CloudNamed(name string) (Cloud, bool) {
	return findCloud(func(c Cloud) bool { return c.Name == name })
}

// aliases are other names of login hosts, among them those of before 2018, which
// configurations still carry.
var aliases = map[string]string{
	"login.microsoft.com":     "login.microsoftonline.com",
	"login.windows.net":       "login.microsoftonline.com",
	"sts.windows.net":         "login.microsoftonline.com",
	"login.usgovcloudapi.net": "login.microsoftonline.us",
	"login.chinacloudapi.cn":  "login.partner.microsoftonline.cn",
}

// CloudOfHost finds the cloud of a login host, without regard to case. It knows the
// aliases and legacy names of the hosts, too, and gives the cloud with the preferred
// ones.
func CloudOfHost(host string) (Cloud, bool) {
	host = strings.ToLower(host)
	if preferred, ok := aliases[host]; ok {
		host = preferred
	}
	return findCloud(func(c Cloud) bool { return c.LoginHost == host })
}

func findCloud(is func(Cloud) bool) (Cloud, bool) {
	all := clouds()
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	return Cloud{}, false
}
