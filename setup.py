"""Builds the package with pip and with colcon; docs/dependencies.md has the reason of each pin."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'vla_prune_ros'

# The wheels that stand in for a ROS distribution exist for this platform only.
LINUX_X86 = 'sys_platform == "linux" and platform_machine == "x86_64"'
JAZZY = {
    '7.1.6': ['rclpy[fastrtps]'],
    '2.0.3': ['builtin-interfaces', 'lifecycle-msgs', 'rcl-interfaces', 'rosgraph-msgs'],
    '5.3.6': [
        *('diagnostic-msgs', 'geometry-msgs', 'nav-msgs', 'sensor-msgs'),
        *('std-msgs', 'std-srvs', 'trajectory-msgs'),
    ],
}

CORE = [
    'numpy>=1.26,<3',
    'torch==2.13.0',
    'transformers==5.23.0; python_version >= "3.11"',
    'transformers==5.20.2; python_version < "3.11"',
    'tokenizers>=0.23.1,<0.24',
    'safetensors>=0.8,<0.9',
    'sentencepiece>=0.2,<0.3',
    'simplejpeg==1.9.0',
    'scipy>=1.8,<2',
    'opencv-python>=4.8,<6',
    'pillow>=10.0.1,<15',
    'huggingface_hub>=1,<3',
    'tqdm>=4.60,<5',
    'pyyaml>=5.4,<7',
    'rich>=13,<16',
    'jinja2>=3.0.3,<4',
]
ROS = [f'ros-{name}=={v}; {LINUX_X86}' for v, names in JAZZY.items() for name in names]
# pin leaves urdfdom open-ended; another major version is another library name.
MOTION = ['pin==4.1.0', 'cmeel-urdfdom>=6,<7']
# The simulator's parameter file takes the speed of the arm through its URDF.
SIM = ['robosuite==1.4.0', 'mujoco==3.3.7', 'termcolor>=2,<4', *MOTION]
# hf-libero and bddl come on top with --no-deps; see docs/dependencies.md.
PLOT = ['matplotlib>=3.5.3,<4']
RAY = ['ray>=2.9,<3']
LIBERO = [*SIM, *PLOT, 'cloudpickle>=2,<4', 'easydict>=1.13,<2', 'future>=1,<2']
LIBERO += ['gymnasium>=0.29,<2']
QUANT = ['torchao==0.18.0']
# Above 0.11 the recovery of damaged bags would have to be looked at: it uses parts of the library.
BAGS = ['rosbags>=0.11.9,<0.12']
TRAIN = [
    *BAGS,
    'peft>=0.21,<0.22',
    'accelerate>=1.15,<2',
    'tensorboard>=2.20,<3',
    'pydantic>=2.7,<3',
    'h5py>=3.11,<4',
    'pyarrow>=17',
    'av>=15',
]
DEV = ['pytest>=9,<10', 'pytest-xdist>=3.8,<4', 'hypothesis>=6.100,<7', 'ruff==0.17.5']

# XML, textures, templates: whatever lies in the package and is no source.
DATA = [
    str(path.relative_to(NAME))
    for path in Path(NAME).rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
]

setup(
    name=NAME,
    version='0.1.0',
    description='Token-pruned OpenVLA-OFT for ROS 2: camera frames in, checked action chunks out.',
    license='Apache-2.0',
    maintainer='vla_prune_ros maintainers',
    maintainer_email='maintainers@vla-prune-ros.org',
    packages=find_packages(exclude=['test', 'test.*']),
    package_data={NAME: DATA},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', sorted(glob('launch/*.py'))),
        (f'share/{NAME}/config', sorted(glob('config/*.yaml') + glob('config/*.xml'))),
        (f'share/{NAME}/config/training', sorted(glob('config/training/*'))),
        (f'share/{NAME}/gazebo', sorted(glob('gazebo/*'))),
        *(
            (f'share/{NAME}/models/{name}', sorted(glob(f'models/{name}/*')))
            for name in ('reference', 'reference-lightvla')
        ),
    ],
    install_requires=CORE,
    extras_require={
        'ros': ROS,
        'motion': MOTION,
        'sim': SIM,
        'libero': LIBERO,
        'plot': PLOT,
        'ray': RAY,
        'quant': QUANT,
        'bags': BAGS,
        'train': TRAIN,
        'dev': DEV,
    },
    entry_points={
        'console_scripts': [
            'vla-prune = vla_prune_ros.cli:main',
            'vla_policy = vla_prune_ros.nodes.policy.node:main',
            'chunk_executor = vla_prune_ros.nodes.executor:main',
            'simulator = vla_prune_ros.nodes.simulator:main',
            'bag_player = vla_prune_ros.nodes.tools.bag_player:main',
        ],
    },
    zip_safe=False,
)
