def validate_create(resource, obj):
    return []


def validate_update(resource, new, old):
    return []
