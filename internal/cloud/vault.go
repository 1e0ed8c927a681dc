package cloud

import (
	"slices"
	"strings"
)

// vaults are the resources that are Azure Key Vault or its managed HSM, in each cloud that has
// published one.
var vaults = []string{
	"https://vault.azure.net", "https://vault.usgovcloudapi.net", "https://vault.azure.cn",
	"https://managedhsm.azure.net", "https://managedhsm.usgovcloudapi.net", "https://managedhsm.azure.cn",
}

// IsVault reports whether a resource, as tokens are asked for it, is Azure Key Vault.
func IsVault(resource string) bool {
	return slices.Contains(vaults, strings.TrimSuffix(resource, "/"))
}
